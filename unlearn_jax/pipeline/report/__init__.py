"""Pages, tables and figures of measured results."""
