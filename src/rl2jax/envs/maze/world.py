"""What a maze is built of, in ViZDoom and in its twin: map units and colours."""

CELL = 128  # map units along a cell
CEILING = 64
EYE = 32  # height above the floor

# Colours of Doom's palette: the engine shows them as they are.
FLOOR = (75, 75, 75)
CEILING_COLOUR = (147, 147, 147)
EAST_WALL = (31, 67, 23)  # faces east or west
NORTH_WALL = (191, 123, 75)  # faces north or south
TARGET = (255, 0, 0)
