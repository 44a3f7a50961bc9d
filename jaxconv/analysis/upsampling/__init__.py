"""Checkerboard patterns of upsampling layers, predicted and measured on flat images."""
