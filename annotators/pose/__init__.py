"""Poses: OpenPose or ViTPose keypoints, drawn as OpenPose draws them."""

from annotators.pose.spec import PoseSpec

__all__ = ["PoseSpec"]
