"""Reads HDF5 files in Python alone, since libhdf5 has memory errors that a stranger's file can reach.

What h5py writes for Keras, keras-hub and Hugging Face is read: superblocks 0 to 3, groups of either style, numbers that
lie in one piece or in chunks, gzip and shuffle. Attributes are not read, other files are not opened. Every size that a
file states is compared with the file's own before memory is given, and the work on its structures is bounded.

Source: HDF5 File Format Specification 3.0, https://docs.hdfgroup.org/hdf5/latest/_f_m_t3.html; the capitals in the code
are the signatures of its structures.
"""
