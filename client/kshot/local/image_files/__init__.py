"""Files of images, read without decoding: what they claim, what it will cost, what decides."""
