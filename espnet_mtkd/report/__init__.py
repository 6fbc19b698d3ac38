"""report.html: what the rows of a recipe gave, on one page that needs no network.

Reads what the stages wrote, by way of `results`, and computes no score of its own. It
loads no model and starts no training.
"""
