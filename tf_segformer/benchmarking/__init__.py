"""One model in every form that it can have on this machine: size, time, memory, agreement and mIoU, in one table."""
