"""The HTML page of `mlxquant report`: one module a kind of record, put together by `page` from Jinja templates.

The page stands alone: style, script and charts are in it, and it asks the network for nothing. Each module here turns
a record into what its template shows; `charts` draws. Nothing is measured or judged here.
"""

__all__ = ["charts", "page"]
