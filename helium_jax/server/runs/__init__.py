"""Runs of plans: their owner, their events, what is kept of them and drawn from them.

Reading a plan is in `server.plans`, the journal itself in `executor.journal`.
"""
