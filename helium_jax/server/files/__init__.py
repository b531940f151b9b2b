"""Files that clients upload and batches write.

What is done with their lines is in `server.batches`.
"""
