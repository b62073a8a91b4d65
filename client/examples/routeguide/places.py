"""The places that the guide knows, and how far it is from one to another."""

from __future__ import annotations

from math import asin, cos, radians, sin, sqrt

from routeguide_pb.routeguide.v1 import routeguide_pb2

UNIT = 1e7  # of a Point, to a degree
EARTH = 6_371_000.0  # its radius in metres


def at(latitude: float, longitude: float) -> routeguide_pb2.Point:
    """In degrees."""
    return routeguide_pb2.Point(latitude=round(latitude * UNIT), longitude=round(longitude * UNIT))


FEATURES = [
    routeguide_pb2.Feature(name=name, location=at(latitude, longitude))
    for name, latitude, longitude in (
        ("Zytglogge, Bern", 46.9480, 7.4474),
        ("Grossmünster, Zürich", 47.3702, 8.5440),
        ("Rhine Falls, Neuhausen", 47.6779, 8.6156),
        ("Chapel Bridge, Luzern", 47.0517, 8.3073),
        ("Jet d'Eau, Genève", 46.2074, 6.1559),
        ("Château de Chillon, Veytaux", 46.4142, 6.9275),
        ("Castelgrande, Bellinzona", 46.1930, 9.0221),
    )
]


def distance(one: routeguide_pb2.Point, other: routeguide_pb2.Point) -> float:
    """Along the surface, in metres: the haversine formula."""
    latitudes = [radians(point.latitude / UNIT) for point in (one, other)]
    longitudes = [radians(point.longitude / UNIT) for point in (one, other)]
    up = sin((latitudes[1] - latitudes[0]) / 2) ** 2
    along = sin((longitudes[1] - longitudes[0]) / 2) ** 2
    return 2 * EARTH * asin(sqrt(up + cos(latitudes[0]) * cos(latitudes[1]) * along))


def lies_in(point: routeguide_pb2.Point, area: routeguide_pb2.Rectangle) -> bool:
    """Whether it does; the edges belong to it."""
    latitudes = sorted((area.low.latitude, area.high.latitude))
    longitudes = sorted((area.low.longitude, area.high.longitude))
    return latitudes[0] <= point.latitude <= latitudes[1] and longitudes[0] <= point.longitude <= longitudes[1]
