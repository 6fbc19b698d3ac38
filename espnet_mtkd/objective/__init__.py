"""What the student has to do: targets, heads, losses, their balance.

Mathematics on tensors. It imports torch and `errors` alone: no ESPnet, no s3prl, no
files, so that each formula can be read and tested by itself.
"""
