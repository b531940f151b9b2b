"""OpenAI's endpoints: bodies, prompts, choices, answers whole or as events.

Plans and runs are in `server.plans` and `server.runs`; sockets and errors in `server` itself.
"""
