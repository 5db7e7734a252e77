"""Training: losses, metrics, optimizer, augmentation, datasets, recipes and the trainer."""
