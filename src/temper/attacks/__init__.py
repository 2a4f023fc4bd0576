"""Searching for evidence: attacks, suites of attacks, and the search that drives them."""
