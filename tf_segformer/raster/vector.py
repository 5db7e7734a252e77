"""Writes the segments of a class raster as polygons: GeoPackage or GeoJSON, with class, name and area."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tf_segformer.errors import ImageError
from tf_segformer.io import atomic_write
from tf_segformer.raster.read import INSTALL, open_raster

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}

_EQUAL_AREA = "EPSG:6933"  # of the whole earth, in metres


def write_polygons(raster: str | PathLike, path: str | PathLike, labels: dict[int, str]) -> int:
    """Traces the outlines of the segments along pixel edges.

    Args:
        raster: Class raster, as `segment_raster` writes it; pixels without a class get no polygon.
        path: File to write: .gpkg in the raster's CRS, .geojson in longitude and latitude (RFC 7946).
        labels: Class names by index.

    Returns:
        Number of polygons. Each has `class`, `name` and `area`: square metres, or square units of the transform where
        the raster has no CRS.

    Raises:
        ImageError: Another suffix.
        ImportError: pyogrio or shapely is missing.
    """
    path = Path(path)
    require_vector(path)
    import pyogrio.raw
    import rasterio
    from rasterio.features import shapes
    from shapely.geometry import shape

    geometries, classes, areas = [], [], []
    with open_raster(raster) as dataset:
        crs = dataset.crs
        for geometry, value in shapes(rasterio.band(dataset, 1), transform=dataset.transform):
            if value == dataset.nodata:
                continue
            geometries.append(shape(geometry).wkb)
            classes.append(int(value))
            areas.append(_area(geometry, crs))
    driver = DRIVERS[path.suffix.lower()]
    with (
        atomic_write(path) as partial,
        TemporaryDirectory(dir=partial.parent) as folder,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "'crs' was not provided")  # whoever calls this says it of the raster
        temporary = Path(folder, path.name)  # GDAL takes other suffixes of a GeoPackage for an error
        pyogrio.raw.write(
            str(temporary),
            geometry=np.array(geometries, dtype=object),
            field_data=[np.array(classes, np.int32), _names(classes, labels), np.array(areas, np.float64)],
            fields=["class", "name", "area"],
            geometry_type="Polygon",
            crs=None if crs is None else crs.to_wkt(),
            driver=driver,
            layer="segments",
            layer_options={"RFC7946": "YES"} if driver == "GeoJSON" and crs is not None else {},
        )
        temporary.rename(partial)
    return len(geometries)


def require_vector(path: str | PathLike) -> None:
    """Says what is wrong with a file of polygons before hours are spent on its raster.

    Args:
        path: File to write.

    Raises:
        ImageError: Another suffix than .gpkg and .geojson.
        ImportError: pyogrio or shapely is missing.
    """
    if Path(path).suffix.lower() not in DRIVERS:
        raise ImageError(f"{path}: polygons are written as {' or '.join(DRIVERS)}.")
    if find_spec("pyogrio") is None or find_spec("shapely") is None:
        raise ImportError(f"{path}: polygons need pyogrio and shapely: {INSTALL}")


def _names(classes: list[int], labels: dict[int, str]) -> np.ndarray:
    return np.array([labels[each] for each in classes], dtype=object)


def _area(geometry: dict[str, Any], crs: Any) -> float:
    """Square metres where the CRS is known; a geographic one is projected to equal areas first."""
    from rasterio.warp import transform_geom
    from shapely.geometry import shape

    if crs is None:
        return shape(geometry).area
    if crs.is_projected:
        return shape(geometry).area * crs.linear_units_factor[1] ** 2
    return shape(transform_geom(crs, _EQUAL_AREA, geometry)).area
