"""Reading and rewriting jaxprs."""
