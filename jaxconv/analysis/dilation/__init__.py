"""What dilated convolutions leave out: gridding layer by layer, and dilation schedules."""
