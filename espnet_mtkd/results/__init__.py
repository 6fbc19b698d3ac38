"""What trainings gave: tables, curves, intervals, from the files that ESPnet wrote.

Reads scores, logs and configs and writes a report. It loads no model and starts no
training.
"""
