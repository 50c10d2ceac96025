"""Rows out of files of any format, on this machine or at a URL. No torch.

In reading order:

    storage.py     where files lie: on this machine, or at a URL
    remote.py      files elsewhere, by fsspec
    decompress.py  zstd, gzip, bz2 and xz as a stream of UTF-8 in bounded memory
    readers.py     rows out of jsonl, JSON, tables, parquet, plain text and WET
    delimited.py   CSV and TSV
    parquet.py     parquet decoded by a process of its own
    mds.py         MDS, MosaicML Streaming's shards of samples
"""
