"""Mazes as a WAD file for the ZDoom engine, written without a compiler or node builder.

A WAD is a header, lumps one after the other, and a directory of (offset, size, name). Maps are in the text format
UDMF; the engine builds what else it needs when it loads one.
"""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rl2jax.envs.maze.mazes import Maze, free_cells
from rl2jax.envs.maze.world import CEILING, CEILING_COLOUR, CELL, EAST_WALL, EYE, FLOOR, NORTH_WALL, TARGET
from rl2jax.files import write_atomically

_TEXTURES = {"RLFLOOR": FLOOR, "RLCEIL": CEILING_COLOUR, "RLEAST": EAST_WALL, "RLNORTH": NORTH_WALL, "RLTARGET": TARGET}

# Moves exactly 25.6 units in a tic and stands still in the next: a step forward puts the player into See, whose end,
# after the move, leads to Spawn, which takes its velocity away.
_PLAYER = f"""
ACTOR MazePlayer : DoomPlayer
{{
  Player.ForwardMove 32.768, 32.768
  Player.ViewHeight {EYE}
  Player.DisplayName "MazePlayer"
  -SLIDESONWALLS
  States
  {{
  Spawn:
    PLAY A 1 A_Stop
    Loop
  See:
    PLAY A 1
    Goto Spawn
  }}
}}
"""
_MAP_INFO = 'gameinfo { playerclasses = "MazePlayer" }\n'


def map_name(index: int) -> str:
    """The lump name of the map of maze `index`."""
    return f"M{index:05d}"


class _Line(NamedTuple):
    start: tuple[int, int]
    end: tuple[int, int]
    texture: str
    solid: bool


def write_wad(path: Path, mazes: Maze) -> None:
    """Writes one map per maze, `map_name(0)` onwards.

    Args:
      path: of the file; written whole or not at all.
      mazes: leaves [num_mazes, ...].
    """
    lumps: list[tuple[str, bytes]] = [("DECORATE", _PLAYER.encode()), ("ZMAPINFO", _MAP_INFO.encode())]
    lumps += [("TX_START", b""), *((name, _png(colour)) for name, colour in _TEXTURES.items()), ("TX_END", b"")]
    for index in range(len(mazes.target)):
        maze = mazes.at(index)
        lumps += [(map_name(index), b""), ("TEXTMAP", _text_map(maze).encode()), ("ENDMAP", b"")]
    header_size, data, directory = 12, bytearray(), bytearray()
    for name, content in lumps:
        directory += struct.pack("<ii8s", header_size + len(data), len(content), name.encode())
        data += content
    header = struct.pack("<4sii", b"PWAD", len(lumps), header_size + len(data))
    write_atomically(path, header + bytes(data) + bytes(directory))


def _png(colour: tuple[int, int, int], size: int = 64) -> bytes:
    """A square of one colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\x00" + bytes(colour) * size) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _text_map(maze: Maze) -> str:
    """A maze in UDMF: a line faces the cell on its right; a thin wall is two lines back to back."""
    lines = _wall_lines(maze) + _target_lines(maze)
    vertices: dict[tuple[int, int], int] = {}
    parts = ['namespace="zdoom";']
    sides = 0
    for line in lines:
        first, second = (vertices.setdefault(point, len(vertices)) for point in (line.start, line.end))
        parts.append(f"linedef{{v1={first};v2={second};sidefront={sides};")
        if line.solid:
            parts.append("blocking=true;}")
            sides += 1
        else:
            parts.append(f"sideback={sides + 1};twosided=true;}}")
            sides += 2
    for line in lines:
        side = f'sidedef{{sector=0;texturemiddle="{line.texture}";nofakecontrast=true;}}'
        parts.append(side if line.solid else side * 2)
    parts += [f"vertex{{x={x};y={y};}}" for x, y in vertices]
    parts.append(
        f'sector{{heightfloor=0;heightceiling={CEILING};texturefloor="RLFLOOR";textureceiling="RLCEIL";lightlevel=255;}}'
    )
    row, column = (int(v) for v in maze.start)
    angle = int(maze.start_heading) * 360 // 16
    x, y = column * CELL + CELL // 2, row * CELL + CELL // 2
    skills = "".join(f"skill{level}=true;" for level in range(1, 6))
    parts.append(f"thing{{x={x};y={y};angle={angle};type=1;{skills}single=true;}}")
    return "\n".join(parts)


def _wall_lines(maze: Maze) -> list[_Line]:
    """One-sided lines, one for each side of a wall that faces a cell that can be entered."""
    size = len(maze.north_walls[0])
    free = free_cells(maze)
    lines = []
    for row, column in zip(*np.nonzero(maze.east_walls), strict=True):
        x, low, high = column * CELL, row * CELL, (row + 1) * CELL
        if column < size and free[row, column]:  # faces east: right of its direction is the east
            lines.append(_Line((x, low), (x, high), "RLEAST", True))
        if column > 0 and free[row, column - 1]:
            lines.append(_Line((x, high), (x, low), "RLEAST", True))
    for row, column in zip(*np.nonzero(maze.north_walls), strict=True):
        y, left, right = row * CELL, column * CELL, (column + 1) * CELL
        if row < size and free[row, column]:
            lines.append(_Line((right, y), (left, y), "RLNORTH", True))
        if row > 0 and free[row - 1, column]:
            lines.append(_Line((left, y), (right, y), "RLNORTH", True))
    return lines


def _target_lines(maze: Maze) -> list[_Line]:
    """Two-sided lines to walk through, where the target's cell is open; red from both sides."""
    row, column = (int(v) for v in maze.target)
    left, right, low, high = column * CELL, (column + 1) * CELL, row * CELL, (row + 1) * CELL
    candidates = [
        (maze.east_walls[row, column], (left, low), (left, high)),
        (maze.east_walls[row, column + 1], (right, low), (right, high)),
        (maze.north_walls[row, column], (left, low), (right, low)),
        (maze.north_walls[row + 1, column], (left, high), (right, high)),
    ]
    return [_Line(start, end, "RLTARGET", False) for wall, start, end in candidates if not wall]
