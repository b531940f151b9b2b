"""Plans over HTTP: from a body to a checked job; registered plans.

What runs them is in `server.runs`.
"""
