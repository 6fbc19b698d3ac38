"""Stage 2: path distillation, its teacher, pseudo-labels and the transducer loss.

What the plugin adds to ESPnet's ASR training. The model that is saved stays ESPnet's
own: nothing that decoding would need may live here.
"""
