// Loads ZooKeeper by the client for Go that Debian has: one connection, which pipelines the writes of all goroutines.
package main

import (
	"sync"
	"time"

	"github.com/samuel/go-zookeeper/zk"
)

// makers is how many goroutines make the keys, because ZooKeeper writes only to those that exist.
const makers = 64

func main() {
	o := parse()
	connection, _, err := zk.Connect([]string{o.to}, 20*time.Second)
	demand(err)
	makeKeys(connection, o.value)
	measure(o, func(number int64) error {
		_, err := connection.Set("/"+key(number), o.value, -1)
		return err
	})
}

func makeKeys(connection *zk.Conn, value []byte) {
	if made, _, err := connection.Exists("/" + key(keys-1)); err == nil && made {
		return
	}
	var workers sync.WaitGroup
	for maker := 0; maker < makers; maker++ {
		workers.Add(1)
		go func(first int) {
			defer workers.Done()
			for number := first; number < keys; number += makers {
				_, err := connection.Create("/"+key(int64(number)), value, 0, zk.WorldACL(zk.PermAll))
				if err != zk.ErrNodeExists {
					demand(err)
				}
			}
		}(maker)
	}
	workers.Wait()
}
