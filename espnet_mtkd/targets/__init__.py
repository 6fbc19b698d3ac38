"""Teacher targets on disk: written once, verified, read by memory map.

The store, what fills it (plan, extraction, codebooks) and the teacher that reads it.
What a student makes of targets stands in `objective` and `pretraining`.
"""
