"""The model gateway: model calls of programs that speak a provider's own format, metered and within a budget."""
