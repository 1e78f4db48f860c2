"""Figures of relevance for print and screen, drawn with matplotlib's objects: no display, no global state.

==========================  ===============================================================================
`plot_overlay`              a map over its image
`plot_heatmap`              a signed map on white
`plot_comparison`           methods beside each other on one image, with their totals
`plot_batch`                images above, maps below
`plot_distribution`         histogram of values, of one map or several
`plot_top_regions`          the k squares that matter most (`top_regions` returns them)
`plot_ledger`               where the logit went, operation by operation
`draw_mask_contour`         the outline of the lungs on any axes
`save_figure`               atomically, at publication resolution
==========================  ===============================================================================

Zero is exactly white, scales are symmetric, channels are summed with their sign.
"""

from lrp_plugin.files import write_atomically
from lrp_plugin.visualization.arrays import display_image, region_mask, relevance_map
from lrp_plugin.visualization.grids import plot_batch, plot_comparison
from lrp_plugin.visualization.ledger import LEDGER_COLUMNS, plot_ledger
from lrp_plugin.visualization.look import Look, draw_image, draw_mask_contour
from lrp_plugin.visualization.maps import plot_heatmap, plot_overlay
from lrp_plugin.visualization.regions import Region, plot_distribution, plot_top_regions, top_regions
from lrp_plugin.visualization.saving import save_figure
from lrp_plugin.visualization.style import RELEVANCE, RELEVANCE_ON_IMAGE

__all__ = [
    "LEDGER_COLUMNS",
    "RELEVANCE",
    "RELEVANCE_ON_IMAGE",
    "Look",
    "Region",
    "display_image",
    "draw_image",
    "draw_mask_contour",
    "plot_batch",
    "plot_comparison",
    "plot_distribution",
    "plot_heatmap",
    "plot_ledger",
    "plot_overlay",
    "plot_top_regions",
    "region_mask",
    "relevance_map",
    "save_figure",
    "top_regions",
    "write_atomically",
]
