"""The axis alphabet: one letter per meaning, in every signature and shape comment.

T  tokens of a step: all sequences' new tokens, one after another (ragged, padded to a bucket)
S  sequences of a step
L  layers
D  model width (hidden size)
F  feed-forward width
N  query heads
K  key/value heads
G  query heads per key/value head, N = K * G
H  head size
V  vocabulary
P  pages of the KV pool
B  tokens in a page (page size)
C  pages of one sequence (columns of the page table)
E  experts
R  rows of a work item; also low ranks
W  work items
"""
