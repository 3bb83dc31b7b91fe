"""The sandbox: where a program that nobody trusts runs, and how well that place is closed."""
