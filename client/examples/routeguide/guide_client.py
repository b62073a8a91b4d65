"""The client of gRPC's route guide: on ipcd guide_client.py, on grpcio guide_client_grpcio.py."""

from __future__ import annotations

import os
import sys
from typing import Any

import grpc
import ipcd_client
from places import FEATURES, at
from routeguide_pb.routeguide.v1 import routeguide_pb2, routeguide_pb2_grpc

ADDRESS = os.environ.get("GUIDE_ADDRESS", "localhost:50051")


def get_feature(stub: Any) -> None:
    for point in (FEATURES[0].location, at(0, 0)):
        feature = stub.GetFeature(point, timeout=10)
        print(f"at {point.latitude}, {point.longitude}: {feature.name or 'nothing'}")


def list_features(stub: Any) -> None:
    area = routeguide_pb2.Rectangle(low=at(47.0, 8.0), high=at(48.0, 9.0))
    for feature in stub.ListFeatures(area, timeout=10):
        print(f"in the area: {feature.name}")


def record_route(stub: Any) -> None:
    points = [feature.location for feature in FEATURES[:4]]
    summary = stub.RecordRoute(iter(points), timeout=10)
    print(f"{summary.points} points, {summary.features} places, {summary.distance / 1000:.0f} km")


def route_chat(stub: Any) -> None:
    notes = [
        routeguide_pb2.RouteNote(location=feature.location, message=message)
        for feature, message in zip(FEATURES[:2] * 2, ("one", "two", "three", "four"), strict=True)
    ]
    for note in stub.RouteChat(iter(notes), timeout=10):
        print(f"left before: {note.message}")


def main() -> int:
    with ipcd_client.channel() as channel:
        stub = routeguide_pb2_grpc.RouteGuideStub(channel)
        try:
            get_feature(stub)
            list_features(stub)
            record_route(stub)
            route_chat(stub)
        except grpc.RpcError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
