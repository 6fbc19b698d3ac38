"""What both stages' trainings share: schedules, saves, and what ends a training.

See `trainer.SurvivingTrainer`.
"""
