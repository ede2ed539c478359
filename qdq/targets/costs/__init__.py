"""What layers and whole nets cost a machine, in float and in integers: predicted from a table.

The tables are data; `qdq bench --fit` measures one of the machine it runs on.
"""
