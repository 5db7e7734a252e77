"""Segmentation of datasets of any size: inputs in shards, one Parquet file per shard, on one process or on Ray."""
