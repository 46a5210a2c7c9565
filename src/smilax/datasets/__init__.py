"""Loaders of public data: from OpenML through scikit-learn, or from the user's own files."""

from smilax.datasets.arrays import npz as npz
from smilax.datasets.characters import Text as Text
from smilax.datasets.characters import text as text
from smilax.datasets.folders import Images as Images
from smilax.datasets.folders import image_folder as image_folder
from smilax.datasets.image_sets import images as images
from smilax.datasets.image_sets import test_images as test_images
from smilax.datasets.splits import Split as Split
from smilax.datasets.tables import uci as uci
