"""Stage 2: path distillation, its teacher, and the transducer loss."""
