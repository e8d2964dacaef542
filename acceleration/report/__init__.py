"""What a run did and how near its picture is: numbers, a chart and text."""
