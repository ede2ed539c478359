"""From anyone's float ONNX file to one with Q and DQ: read, put right, placed, calibrated."""
