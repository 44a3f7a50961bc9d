"""`jaxconv explain`: what a network sees, where it leaves holes, where it prints checkerboards, as one HTML page."""
