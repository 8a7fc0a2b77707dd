"""Answers of a query."""

from collections.abc import Sequence
from html import escape

# Rows that a notebook shows.
SHOWN = 20


class Rows(Sequence):
    """Rows of a query: each is a dictionary of column to value."""

    def __init__(self, columns, rows, truncated=False):
        self.columns = list(columns)
        self.truncated = truncated
        self._rows = list(rows)

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, at):
        if isinstance(at, slice):
            return Rows(self.columns, self._rows[at], self.truncated)
        return dict(zip(self.columns, self._rows[at]))

    def to_pandas(self):
        """A `pandas.DataFrame`. Needs pandas."""
        import pandas

        return pandas.DataFrame.from_records(self._rows, columns=self.columns)

    def to_arrow(self):
        """A `pyarrow.Table`. Needs pyarrow."""
        import pyarrow

        columns = zip(*self._rows) if self._rows else [()] * len(self.columns)
        return pyarrow.table(dict(zip(self.columns, map(list, columns))))

    def __repr__(self):
        more = ", more were cut off: add LIMIT or raise rows_max" if self.truncated else ""
        return f"<tensorferry.Rows {len(self)} × {self.columns}{more}>"

    def _repr_html_(self):
        return table(self.columns, self._rows, len(self))


def table(columns, rows, count):
    """The first rows as an HTML table, for notebooks."""
    cells = "".join(f"<th>{escape(str(it))}</th>" for it in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape('' if it is None else str(it))}</td>" for it in row) + "</tr>"
        for row in rows[:SHOWN]
    )
    more = f"<p>{count} rows in all</p>" if count > SHOWN else ""
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{more}"
