"""Training methods, one file each. A config names one by its dotted path; that is the whole registry."""

from mcsc_bundle.methods.base import Method
from mcsc_bundle.methods.bcp import BCP
from mcsc_bundle.methods.contrast import MultiScaleContrast
from mcsc_bundle.methods.cps import CPS
from mcsc_bundle.methods.cross_teaching import CrossTeaching
from mcsc_bundle.methods.mcsc import MCSC
from mcsc_bundle.methods.mcsc_paper import PaperMCSC
from mcsc_bundle.methods.mean_teacher import MeanTeacher
from mcsc_bundle.methods.supervised import Supervised
from mcsc_bundle.methods.uamt import UAMT
from mcsc_bundle.methods.urpc import URPC

__all__ = [
    "BCP",
    "CPS",
    "MCSC",
    "UAMT",
    "URPC",
    "CrossTeaching",
    "MeanTeacher",
    "Method",
    "MultiScaleContrast",
    "PaperMCSC",
    "Supervised",
]
