"""Stage 2: path distillation, kept teachers, pseudo-labels, the loss.

What the plugin adds to ESPnet's ASR training. The model that is saved stays ESPnet's
own: nothing that decoding would need may live here.
"""
