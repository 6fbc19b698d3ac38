"""Stage 1: the student's encoder learns to predict the teachers' embeddings.

ESPnet's task, model and trainer around `objective`, and the hand-over to stage 2.
Formulas belong into `objective`, what a trained student is used for into `student`.
"""
