"""What the student hears beside clean audio: masks on features, noise on waveforms.

Options, arrays and tensors alone: no task, no trainer, no teacher.
"""
