"""Convolutions read off a jaxpr and computed by jaxconv's faces; users call [`accelerate`][jaxconv.accelerate]."""

from jaxconv._accelerate.recognise import Assignment, assignments
from jaxconv._accelerate.report import Report, Row
from jaxconv._accelerate.rewrite import Rewriter
from jaxconv._accelerate.transform import accelerate

__all__ = ["Assignment", "Report", "Rewriter", "Row", "accelerate", "assignments"]
