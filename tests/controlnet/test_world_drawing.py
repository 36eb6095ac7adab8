"""What comes with a drawn picture is exactly what is in it."""

import concurrent.futures
import dataclasses

import numpy as np
import pytest

from controlnet.nano.world import CLASSES, draw, make_scene, mirrored, shapes
from controlnet.nano.world.drawing import SAMPLES, Samples
from controlnet.nano.world.layout import extent
from controlnet.nano.world.people import JOINTS, LIMBS
from controlnet.nano.world.scene import COLORS, Object, Person

SIZE = 48
MAPS = ("rgb", "depth_m", "instances", "classes", "normals", "boundaries")
PEOPLE = [make_scene(1, number, people=True) for number in range(6)]
THINGS = [make_scene(1, number, people=False) for number in range(6)]


@pytest.fixture(scope="module")
def drawn():
    return [(scene, draw(scene, SIZE)) for scene in PEOPLE + THINGS]


def alone(**changes):
    """A scene with one red ball."""
    scene = next(s for s in THINGS if s.place.backdrop == "wall")
    ball = Object(
        shape="ball",
        color="red",
        pattern="plain",
        x_m=0.2,
        z_m=3.0,
        foot_m=0.0,
        width_m=1.0,
        height_m=1.0,
        angle=0.0,
    )
    place = dataclasses.replace(scene.place, wall_m=6.0, ground="gray", color="white")
    return dataclasses.replace(scene, place=place, things=(dataclasses.replace(ball, **changes),))


def test_a_scene_has_the_same_bytes_in_any_order_and_thread(drawn):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        again = list(pool.map(lambda number: draw(make_scene(1, number), SIZE), (3, 1, 2)))
    for number, other in zip((3, 1, 2), again, strict=True):
        draw(make_scene(1, number), 32)
        once = draw(make_scene(1, number), SIZE)
        for name in MAPS:
            assert getattr(once, name).tobytes() == getattr(other, name).tobytes()
        for one, two in zip(once.people, other.people, strict=True):
            assert np.array_equal(one.joints, two.joints)
    assert make_scene(1, 3) != make_scene(2, 3)


def test_at_each_sample_stands_the_nearest_thing_that_covers_it():
    for scene in [*PEOPLE[:2], *THINGS[:3]]:
        whole = Samples(scene, 2 * SIZE)
        behind = Samples(dataclasses.replace(scene, things=()), 2 * SIZE)
        layers = [Samples(scene, 2 * SIZE, only=number) for number in range(len(scene.things))]
        depths = np.stack([behind.depth_m, *(layer.depth_m for layer in layers)])
        names = np.stack([behind.instances, *(layer.instances for layer in layers)])
        nearest = depths.argmin(axis=0)[None]
        assert np.array_equal(whole.depth_m, depths.min(axis=0))
        assert np.array_equal(whole.instances, np.take_along_axis(names, nearest, axis=0)[0])
        assert len(np.unique(whole.instances)) == len(scene.things) + 1


def test_things_that_overlap_are_ordered_in_depth_as_they_stand(drawn):
    pairs = 0
    for scene, picture in drawn:
        extents = [extent(scene.camera, thing) for thing in scene.things]
        depths = [
            np.median(picture.depth_m[picture.instances == number + 1])
            for number in range(len(scene.things))
        ]
        for one in range(len(extents)):
            for other in range(len(extents)):
                if extents[one].far_m < extents[other].near_m:
                    assert depths[one] < depths[other]
                    pairs += 1
    assert pairs > 8


def test_things_stand_where_the_ground_is_as_far_as_they_are():
    checked = 0
    for scene in THINGS:
        samples = Samples(scene, 256)
        for number, thing in enumerate(scene.things):
            rows = np.nonzero(samples.instances == number + 1)[0]
            if thing.foot_m > 0 or rows.max() == 255:
                continue
            if thing.shape in shapes.OUTLINES:  # flat: all of it is as far as its foot
                at_foot = scene.camera.focal * scene.camera.height_m / thing.z_m
                ends = 256 * (scene.camera.horizon + at_foot)
                hidden = any(other.z_m < thing.z_m for other in scene.things)
                assert ends >= rows.max() + 0.5 - 1.5
                assert hidden or ends <= rows.max() + 0.5 + 1.5
                checked += 1
    assert checked > 3


def test_boundaries_are_where_neighbours_differ_one_pixel_on_the_nearer_side(drawn):
    for scene, picture in drawn[3:9]:
        kind = 100 * picture.instances.astype(int) + picture.classes
        person = picture.classes == CLASSES.index("person")
        wanted = np.zeros((SIZE, SIZE), bool)
        for y in range(SIZE):
            for x in range(SIZE):
                for b, a in ((y, x + 1), (y + 1, x), (y, x - 1), (y - 1, x)):
                    if not (0 <= b < SIZE and 0 <= a < SIZE):
                        continue
                    here, there = picture.depth_m[y, x], picture.depth_m[b, a]
                    jump = person[y, x] and max(here, there) > 1.05 * min(here, there)
                    nearer = here < there or (here == there and kind[y, x] > kind[b, a])
                    if (kind[y, x] != kind[b, a] or jump) and nearer:
                        wanted[y, x] = True
        assert np.array_equal(picture.boundaries, wanted)
        assert 0.01 < picture.boundaries.mean() < 0.25, scene


def test_an_empty_scene_has_no_boundary_but_where_the_ground_ends():
    empty = draw(dataclasses.replace(alone(), things=()), SIZE)
    assert len(set(np.nonzero(empty.boundaries)[0])) == 1
    assert not empty.instances.any()
    ball = draw(alone(), SIZE)
    inside = ball.instances == 1
    core = inside.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            core &= np.roll(inside, step, axis=axis)
    assert np.array_equal(ball.boundaries & inside, inside & ~core)


def nearest_part(scene, u, v):
    """The part of a body that the ray through a point of the picture meets first: all are tried."""
    camera = scene.camera
    rays = shapes.Rays(
        np.array([(u - 0.5) / camera.focal]), np.array([(camera.horizon - v) / camera.focal])
    )
    met = []
    samples = Samples(scene, 8)
    for number, figure in samples.bodies.items():
        one = scene.things[number]
        place = np.array([one.x_m, one.foot_m - camera.height_m, one.z_m])
        for each in figure.capsules:
            line = each.start + place, each.end + place
            inside, depth, _ = shapes.capsule(rays, *line, each.radius, each.frame)
            met.append((float(depth[0, 0]) if inside[0, 0] else 1e9, number, each.part))
        frame = figure.head.axes / figure.head.radii[:, None]
        inside, depth, _ = shapes.ball(rays, figure.head.center + place, 1.0, frame)
        met.append((float(depth[0, 0]) if inside[0, 0] else 1e9, number, "head"))
    return min(met)


def test_a_joint_is_seen_exactly_where_its_limb_is_in_front():
    counted = {0: 0, 1: 0, 2: 0}
    for scene in PEOPLE:
        picture = draw(scene, SIZE)
        side = SIZE * SAMPLES
        samples = Samples(scene, side)
        for person in picture.people:
            for name, (x, y, seen) in zip(JOINTS, person.joints.tolist(), strict=True):
                counted[int(seen)] += 1
                if not seen:
                    continue
                column, row = int(x / SIZE * side), int(y / SIZE * side)
                depth, number, part = nearest_part(scene, (column + 0.5) / side, (row + 0.5) / side)
                hidden = depth > samples.depth_m[row, column] + 1e-3  # a thing is before it
                in_limb = not hidden and number == person.instance - 1 and part in LIMBS[name]
                if name in {"nose", "left_eye", "right_eye"}:  # on the back of a head, not seen
                    assert in_limb or seen == 1
                else:
                    assert (seen == 2) == in_limb, (name, part)
    assert counted[1] > 20
    assert counted[2] > 60


def test_faces_are_seen_from_the_front_only():
    seen = {"viewer": [], "away": []}
    for number in range(40):
        scene = make_scene(4, number, people=True)
        if not any(isinstance(t, Person) and t.facing in seen for t in scene.things):
            continue
        for person in draw(scene, 32).people:
            facing = scene.things[person.instance - 1].facing
            if facing in seen:
                seen[facing].append((person.joints[[0, 14, 15], 2] == 2).mean())
    assert np.mean(seen["viewer"]) > 0.85
    assert np.max(seen["away"]) == 0


SWAPPED = [
    JOINTS.index(name.replace("left", "?").replace("right", "left").replace("?", "right"))
    for name in JOINTS
]


def test_a_mirrored_scene_is_the_mirrored_picture_with_joints_swapped():
    for scene in [*PEOPLE[:4], *THINGS[:4]]:
        one, other = draw(scene, SIZE), draw(mirrored(scene), SIZE)
        for name in ("rgb", "depth_m", "instances", "classes", "boundaries"):
            assert np.array_equal(getattr(one, name)[:, ::-1], getattr(other, name)), name
        assert np.array_equal(one.normals[:, ::-1] * [-1, 1, 1], other.normals)
        for person, twin in zip(one.people, other.people, strict=True):
            wanted = person.joints[SWAPPED]
            wanted[:, 0] = np.where(wanted[:, 2] > 0, SIZE - wanted[:, 0], 0)
            assert np.allclose(wanted, twin.joints, atol=1e-4)


def test_normals_are_of_length_one_and_face_the_viewer(drawn):
    for _, picture in drawn:
        length = np.linalg.norm(picture.normals, axis=2)
        sky = picture.classes == CLASSES.index("sky")
        assert np.all(length[sky] == 0)
        assert np.allclose(length[~sky], 1, atol=1e-5)
        things = picture.instances > 0
        assert (picture.normals[things][:, 2] > -0.35).all()  # perspective shows a little more


def test_a_ball_is_as_bright_as_lambert_says():
    scene = alone()
    picture = draw(scene, 64)
    inside = (picture.instances == 1) & ~picture.boundaries
    light = scene.light
    n = picture.normals[inside] * [1, 1, -1]
    bright = np.array([light.shade(float(cosine)) for cosine in n @ [light.x, light.y, light.z]])
    color = np.clip(np.array(COLORS["red"]) * bright[:, None], 0, 255)
    kept = np.exp(-picture.depth_m[inside] / scene.place.haze_m)[:, None]
    haze = np.array((236, 234, 228))
    wanted = haze + (color - haze) * kept
    off = np.abs(picture.rgb[inside] - wanted).max(axis=1)
    assert off.mean() < 1
    assert np.percentile(off, 95) <= 1.5


def test_a_larger_picture_shows_the_same_scene():
    scene = PEOPLE[0]
    small, large = draw(scene, 32), draw(scene, 128)
    reduced = large.rgb.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(reduced - small.rgb).mean() < 3
    for one, other in zip(small.people, large.people, strict=True):
        both = (one.joints[:, 2] > 0) & (other.joints[:, 2] > 0)
        assert np.allclose(one.joints[both, :2] * 4, other.joints[both, :2], atol=1e-2)


def test_people_are_there_or_not_as_asked():
    for number in range(12):
        with_people, without = (make_scene(2, number, people=some) for some in (True, False))
        assert any(isinstance(thing, Person) for thing in with_people.things)
        assert not any(isinstance(thing, Person) for thing in without.things)
        assert 1 <= len(with_people.things) <= 4
