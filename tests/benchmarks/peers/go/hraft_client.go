// Loads a node of hraft_node.go: one connection, on which writes are pipelined and flushed when no further one waits.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
)

type call struct {
	body []byte
	done chan error
}

func main() {
	o := parse()
	connection, err := net.Dial("tcp", o.to)
	demand(err)
	calls, sent := make(chan call, o.outstanding), make(chan call, o.outstanding)
	go send(connection, calls, sent)
	go receive(connection, sent)
	measure(o, func(number int64) error {
		name := key(number)
		body := make([]byte, 0, 2+len(name)+len(o.value))
		body = append(body, 'P', byte(len(name)))
		body = append(append(body, name...), o.value...)
		done := make(chan error, 1)
		calls <- call{body, done}
		return <-done
	})
}

func send(connection net.Conn, calls, sent chan call) {
	out := bufio.NewWriterSize(connection, 64<<10)
	for each := range calls {
		demand(binary.Write(out, binary.BigEndian, uint32(len(each.body))))
		_, err := out.Write(each.body)
		demand(err)
		sent <- each
		if len(calls) == 0 {
			demand(out.Flush())
		}
	}
}

func receive(connection net.Conn, sent chan call) {
	in := bufio.NewReaderSize(connection, 64<<10)
	for each := range sent {
		var size uint32
		demand(binary.Read(in, binary.BigEndian, &size))
		answer := make([]byte, size)
		_, err := io.ReadFull(in, answer)
		demand(err)
		if size > 0 {
			each.done <- errors.New(string(answer))
		} else {
			each.done <- nil
		}
	}
}
