"""From images to class maps: whole, in windows, or averaged over sizes and flip images."""
