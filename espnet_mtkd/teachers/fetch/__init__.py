"""Weights of teachers from places that can be had: sources, formats, checksums.

What turns a download into a teacher's directory. How a teacher runs stands one folder
up.
"""
