"""From pictures to class maps: whole, in windows, or averaged over sizes and mirror images."""
