"""Anthropic's Messages API in front of the same path as `server.openai`.

How an answer is generated is not here: `server.openai.choices`.
"""
