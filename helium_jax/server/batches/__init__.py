"""Files of requests, answered behind everything else.

The files themselves are in `server.files`, plans in `server.plans`.
"""
