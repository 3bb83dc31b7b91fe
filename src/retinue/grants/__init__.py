"""Grants: what a user lets an application do, signed requests, and every use of them."""
