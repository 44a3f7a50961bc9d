"""What single units of a network respond to: visualisation and strongest patches."""
