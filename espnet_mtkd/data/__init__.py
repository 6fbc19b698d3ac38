"""Kaldi data directories, and the look at every audio file in them.

What a corpus is and whether it can be used. Nothing of teachers, students or training:
this folder imports `errors` and `files` alone.
"""
