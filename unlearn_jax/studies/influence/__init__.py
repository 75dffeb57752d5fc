"""A study of influence functions where their assumptions hold."""
